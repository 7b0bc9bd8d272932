"""The cases here are collected by harness.pytest_plugin: `pytest golden/ --impl NAME`."""
