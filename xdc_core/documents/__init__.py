"""The JSON documents that stages leave for people, reports and tables, as typed models."""
