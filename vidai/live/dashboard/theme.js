// Before anything is drawn, so that the page does not flash in the other theme.
{
  const kept = localStorage.getItem("vidai-theme");
  if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
}
