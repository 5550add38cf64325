"""The chain as Kubeflow pipelines: steps (files to files), components, pipelines, and where they run."""
