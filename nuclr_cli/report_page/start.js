// Draw the map first: it is what people look at; plots follow when they come into sight.
startTheme();
startMap().then(() => {
  requestAnimationFrame(() => {
    performance.mark("nuclr-map-drawn");
    root.dataset.ready = performance.now().toFixed(0);
    startCharts();
    startUnits();
  });
});
