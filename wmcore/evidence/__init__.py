"""Reports for an authority: what a scan or an audit showed, with what, and what that does not show.

`record` is what a report says; `scans` and `audits` make it from results, `robustness` measures edits, `technique` has
the words that always hold, `page` the HTML page.
"""
