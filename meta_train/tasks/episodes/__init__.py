"""Few-shot tasks: each problem is an episode with a support set and a query set."""
