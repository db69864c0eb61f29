"""The console: pages to look at, as files of the package, and the policy that browsers hold them to."""
