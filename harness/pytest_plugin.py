"""The pytest plugin: it judges golden cases on implementations as pytest items."""
