"""The detector as a service: ``wmcore serve`` (extra ``serve``), docs/service.md.

`panel.Panel` answers texts under one or several watermarks; `app.create_app` is the HTTP side; `settings`, `access`,
`work` and `logs` are what the operator sets, who may ask, the queue, and what is written down.
"""
