"""From one path of recommendations to another and back: share, shadow, breaker, step back, fall-back."""
