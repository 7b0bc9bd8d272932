import pytest

# Modules of shared tests explain a failed assertion as test modules do.
pytest.register_assert_rewrite("tests.impls.contract", "tests.impls.node_programs")
