"""Reports of a run: in words, as JSON, as JUnit XML, and as a page."""
