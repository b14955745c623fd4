"""The rules of the wallet: values and decisions, without input or output."""
