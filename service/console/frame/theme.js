// Before anything is drawn: the theme and the language that were chosen here before, else the browser's own.
(() => {
  const root = document.documentElement;
  const theme = localStorage.getItem("console.theme");
  if (theme) root.dataset.theme = theme;
  root.lang = localStorage.getItem("console.language") ?? (navigator.language.startsWith("ko") ? "ko" : "en");
})();
