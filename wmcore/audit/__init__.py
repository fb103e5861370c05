"""A self-test of a set-up that writes watermarked text: is what it writes found, and nothing else?

`writers`, `endpoint` and `given` get texts; `run` has them tested and asks the questions of `checks` and `shifts`;
`diagnosis` says which known fault fits; `result` is what comes out.
"""
