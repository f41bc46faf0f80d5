"""Upload of a run to the Hugging Face Hub."""
