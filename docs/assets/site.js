// Names and keyboard access that the theme leaves out.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelector(".md-search")?.setAttribute("aria-label", "Search")
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap, div.arithmatex")) {
    box.tabIndex = 0
  }
})

// Equations: arithmatex marks them, KaTeX (a local copy, where npm could load it) draws them.
document.addEventListener("DOMContentLoaded", () => {
  if (!window.katex) return
  for (const found of document.querySelectorAll(".arithmatex")) {
    const source = found.textContent.trim()
    const displayMode = source.startsWith("\\[")
    katex.render(source.slice(2, -2), found, { displayMode, throwOnError: false, output: "htmlAndMathml" })
  }
})
