/** Single-row inserts, each a transaction of its own that is durable when it returns, and point selects of rows that are cached; a second each. */
export async function rates(pg, { inserts, selects, rows }) {
  await pg.exec('create table if not exists small (id int primary key, v text)');
  await pg.exec(`truncate small; insert into small select g, md5(g::text) from generate_series(1, ${rows}) g`);
  let id = 1_000_000;
  for (let i = 0; i < 5; i++) await pg.query('insert into small values ($1, $2)', [id++, 'warm']);
  const insertStart = performance.now();
  for (let i = 0; i < inserts; i++) await pg.query('insert into small values ($1, $2)', [id++, 'a row of some bytes']);
  const insertMs = performance.now() - insertStart;
  const select = (i) => pg.query('select v from small where id = $1', [1 + ((i * 7919) % rows)]);
  for (let i = 0; i < 100; i++) await select(i);
  const selectStart = performance.now();
  for (let i = 0; i < selects; i++) await select(i);
  const selectMs = performance.now() - selectStart;
  return { inserts: (inserts / insertMs) * 1000, selects: (selects / selectMs) * 1000 };
}
