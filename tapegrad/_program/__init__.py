"""Programs: the intermediate representation that captures make, planners rewrite and executors run."""
