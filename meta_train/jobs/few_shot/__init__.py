"""The few-shot job: `python -m meta_train few-shot`."""
