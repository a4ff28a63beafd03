"""Why an engine, a tool or the page failed, by its log alone: the root exception first, then what is known of it.

`verdicts.explain` is the way in; `catalogue/` holds what is known, as data.
"""
