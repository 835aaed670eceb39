"""Reports of evaluations: one page for a browser, and the same figures as JSON and Markdown."""
