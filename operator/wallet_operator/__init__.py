"""The Kubernetes operator: makes the workers that each `WalletManager` asks for, and says in its status how they are.

Level-triggered: an event only says which wallet to look at, and every look starts from what there is now.

    handlers ──► queue ──► reconcile ──► spec, manifests, upgrade, plan ──► apply
    (kopf)                     │
                               └──► workers_status (the pods' /status) ──► status ──► apply

`spec`, `manifests`, `network`, `plan`, `upgrade`, `bootstrap` and `status` decide and are pure; `apply`, `leader`,
`rights` and `workers_status` do. It imports `wallet_core`, never `wallet_workers`.
"""
