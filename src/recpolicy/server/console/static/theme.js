// Sets the theme before the page is drawn: the user's choice, or the system's theme.
{
  let chosen = null;
  try { chosen = localStorage.getItem("recpolicy-theme"); } catch { /* no storage: the system's theme */ }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
