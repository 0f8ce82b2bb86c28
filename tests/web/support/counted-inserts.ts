/** A page that writes one row after another until it is killed. */
import type { Page } from 'playwright-core';

/** Inserts 1, 2, ... into a new table `counted` on branch `main`, each on its own. Resolves with a number that is acknowledged by then; it goes on. */
export async function beginInserts(page: Page): Promise<number> {
  await page.evaluate(async () => {
    const pg = await lite.connect('main');
    await pg.exec('create table counted (n int)');
    Object.assign(globalThis, { acknowledged: 0 });
    void (async () => {
      for (let n = 1; ; n++) {
        await pg.query('insert into counted values ($1)', [n]);
        Object.assign(globalThis, { acknowledged: n });
      }
    })();
  });
  await page.waitForFunction('acknowledged >= 20');
  return (await page.evaluate('acknowledged')) as number;
}
