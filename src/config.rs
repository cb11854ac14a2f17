//! The configuration file: the only place that knows YAML.
