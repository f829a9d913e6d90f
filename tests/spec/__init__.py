"""What the specifications themselves test: their conformance suites, run against our servers."""
