"""The command line: parse, build a config, call one workflow, print; --help imports nothing heavy."""
