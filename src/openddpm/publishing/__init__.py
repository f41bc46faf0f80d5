"""The run made public: a model card, and an upload to the Hugging Face Hub."""
