/** Fills a PGlite in a worker, so that the page lives meanwhile. */
addEventListener('message', async ({ data: { dataDir, load } }) => {
  try {
    const { PGlite } = await import('/pglite/index.js');
    const pg = await PGlite.create(dataDir);
    await pg.exec(load);
    await pg.close();
    postMessage({});
  } catch (error) {
    postMessage({ error: `${error.message}\n${error.stack}` });
  }
});
