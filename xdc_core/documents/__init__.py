"""The JSON documents that stages write for users, reports and tables, as typed models."""
