"""Will this be detectable? The power of a test of texts yet to be written: `detection_power`, `wmcore plan`.

(A `wmcore.plan.Plan` is another thing: how p is found.)
"""
