"""The one guarded download of a picture behind an address; `fetch` is its way in."""
