// Equations: arithmatex marks them, KaTeX (a local copy, where npm could load it) draws them.
document.addEventListener("DOMContentLoaded", () => {
  if (!window.katex) return
  for (const found of document.querySelectorAll(".arithmatex")) {
    const source = found.textContent.trim()
    const displayMode = source.startsWith("\\[")
    katex.render(source.slice(2, -2), found, { displayMode, throwOnError: false, output: "htmlAndMathml" })
  }
})
