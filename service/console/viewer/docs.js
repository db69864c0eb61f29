// The viewer of openapi.yaml. What it shows is the document of this very service.
const night = matchMedia("(prefers-color-scheme: dark)");
const setTheme = () => {
  const chosen = localStorage.getItem("console.theme"); // by the console's button; empty: as the system
  document.documentElement.classList.toggle("dark-mode", chosen ? chosen === "dark" : night.matches);
};
setTheme();
night.addEventListener("change", setTheme);
SwaggerUIBundle({
  url: "/openapi.yaml",
  dom_id: "#contract",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  docExpansion: "list",
  filter: true,
  persistAuthorization: false,
  validatorUrl: null, // nothing is sent elsewhere
});
