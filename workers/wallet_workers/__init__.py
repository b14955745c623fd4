"""The worker processes: loops over ports, the adapters behind them, and one entry point."""
