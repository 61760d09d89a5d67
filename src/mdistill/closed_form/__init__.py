"""Students linear in their features, fitted in closed form, and the uncertainty that follows."""
