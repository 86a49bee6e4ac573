// Before the first paint: the theme that the user chose here before. Without a choice the system's applies.
try {
  const theme = localStorage.getItem('tidegate-theme');
  if (theme === 'dark' || theme === 'light') document.documentElement.dataset.theme = theme;
} catch {
  // Storage is off: the system's theme applies.
}
