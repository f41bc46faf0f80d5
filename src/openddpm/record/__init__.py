"""The run folder on disk: schema, writer, reader. Imports no torch."""
