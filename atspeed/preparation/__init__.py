"""From a team's data to what training needs."""
