"""The report: one HTML page that compares translations of a test set, with all its data inside.

`comparison` has what is compared, `analysis` what is computed from it, `page` the page. The page's
template, style and scripts are in `assets`.
"""
