"""What a round did, as numbers (report.json) and as a page (report.html)."""
