"""The command line: parse, build a config, call one function of the api, print. Nothing heavy is imported for --help."""
