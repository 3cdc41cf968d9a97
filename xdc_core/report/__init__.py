"""The report of a round, as JSON (report.json) and as a page (report.html)."""
