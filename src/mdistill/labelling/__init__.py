"""Labels of a teacher: plan, tasks, engines and executors."""
