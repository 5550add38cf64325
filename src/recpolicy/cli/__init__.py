"""The command line: parse, build a config, call one function of the api, print; --help imports nothing heavy."""
