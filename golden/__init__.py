"""Golden cases, by suite; `pytest --pyargs harness.golden` finds them where the package is installed."""
