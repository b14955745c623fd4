"""What holds for all tests: a busy machine makes none of them fail."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "wallet-manager", parent=settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("wallet-manager")
