/** What a tab's database holds, looked at from its page. */
import type { Page } from 'playwright-core';
import { databaseName } from '../../../browser/stores/database.ts';

/** Lengths of the bytes of all records in one of its stores. */
export function recordLengths(page: Page, repository: string, store: string): Promise<number[]> {
  return page.evaluate(
    async ({ database, store }) => {
      const wait = <T>(request: IDBRequest<T>) =>
        new Promise<T>((resolve, reject) => {
          request.onsuccess = () => resolve(request.result);
          request.onerror = () => reject(request.error);
        });
      const open = await wait(indexedDB.open(database));
      const records = (await wait(open.transaction(store).objectStore(store).getAll())) as { bytes: Uint8Array }[];
      open.close();
      return records.map(({ bytes }) => bytes.length);
    },
    { database: databaseName(repository), store },
  );
}
