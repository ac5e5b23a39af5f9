// Draws the figures in the page's own colours as they come into sight, again when light and dark mode change; opens
// everything for print; gives the numbers of a figure as CSV.
(function () {
  const figures = JSON.parse(document.getElementById("figure-data").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const settings = { displayModeBar: false, responsive: true };
  const drawn = new Set();
  const printWidth = 660;

  function themed(layout) {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim();
    const line = style.getPropertyValue("--line").trim();
    const paper = style.getPropertyValue("--paper").trim();
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line };
    const own = Object.assign({}, layout, {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: "system-ui, sans-serif", size: 12, color: ink },
      hoverlabel: { bgcolor: paper, font: { color: ink } },
    });
    for (const name of Object.keys(layout).concat(["xaxis", "yaxis"])) {
      if (/^[xy]axis\d*$/.test(name)) own[name] = Object.assign({}, axis, layout[name]);
    }
    return own;
  }

  function draw(id, width) {
    const figure = figures[id];
    const layout = themed(figure.layout);
    if (width) Object.assign(layout, { width: width, autosize: false });
    Plotly.react(id, figure.data, layout, settings);
    drawn.add(id);
  }

  function asCsv(figure) {
    const rows = [["trace", "x", "y", "value", "text"]];
    const at = (list, i) => (Array.isArray(list) ? list[i] : "");
    figure.data.forEach(function (trace, k) {
      const name = trace.name || "trace " + (k + 1);
      if (Array.isArray(trace.z)) {
        trace.z.forEach((line, i) => line.forEach((v, j) => rows.push([name, at(trace.x, j), at(trace.y, i), v, ""])));
        return;
      }
      const n = Math.max((trace.x || []).length || 0, (trace.y || []).length || 0, (trace.labels || []).length || 0);
      for (let i = 0; i < n; i++) {
        const label = at(trace.labels, i);
        rows.push([name, at(trace.x, i), at(trace.y, i), at(trace.values, i), label === "" ? at(trace.text, i) : label]);
      }
    });
    const quoted = (cell) => {
      const text = cell === null || cell === undefined ? "" : String(cell);
      const inert = typeof cell === "string" && /^[=+\-@]/.test(text) ? "'" + text : text;
      return /[",\n]/.test(inert) ? '"' + inert.replace(/"/g, '""') + '"' : inert;
    };
    return rows.map((row) => row.map(quoted).join(",")).join("\n") + "\n";
  }

  document.querySelectorAll("button.numbers").forEach(function (button) {
    button.hidden = false;
    button.addEventListener("click", function () {
      const id = button.dataset.figure;
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([asCsv(figures[id])], { type: "text/csv" }));
      link.download = id + ".csv";
      link.click();
      URL.revokeObjectURL(link.href);
    });
  });

  if (typeof Plotly !== "undefined") {
    if ("IntersectionObserver" in window) {
      const watcher = new IntersectionObserver(function (entries) {
        entries.forEach(function (entry) {
          if (!entry.isIntersecting) return;
          watcher.unobserve(entry.target);
          if (!drawn.has(entry.target.id)) draw(entry.target.id);
        });
      }, { rootMargin: "800px" });
      Object.keys(figures).forEach((id) => watcher.observe(document.getElementById(id)));
    } else {
      Object.keys(figures).forEach((id) => draw(id));
    }
    dark.addEventListener("change", () => drawn.forEach((id) => draw(id)));
  }

  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details").forEach(function (d) { d.open = true; });
    document.documentElement.classList.add("printing");
    if (typeof Plotly !== "undefined") Object.keys(figures).forEach((id) => draw(id, printWidth));
  });
  window.addEventListener("afterprint", function () {
    document.documentElement.classList.remove("printing");
    if (typeof Plotly !== "undefined") drawn.forEach((id) => draw(id));
  });
})();
