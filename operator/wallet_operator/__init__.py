"""The Kubernetes operator's place. It may import `wallet_core`, never `wallet_workers`."""
