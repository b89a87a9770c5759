"""What tests share: tiny runs, toy tasks, replies by hand, grids that misbehave, and federations of real processes."""
