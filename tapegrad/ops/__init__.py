"""The operations, one file a family. They are exported in `tapegrad`, and nowhere twice."""
