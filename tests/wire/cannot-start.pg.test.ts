/** A backend that cannot be opened is an error of the endpoint, with what PostgreSQL says and the detail that it gives: there the object at fault is named. */
import { expect, it } from 'vitest';
import { distUrl } from '../support/dist.ts';
import { startTestEndpoint } from '../support/wire-client.ts';

it('an endpoint whose backend cannot be opened says why, with the detail', async () => {
  const setUp = "do $$ begin raise exception 'I/O error' using detail = 'layer x of timeline y is damaged'; end $$";
  const openBackend = {
    workerUrl: distUrl('server/compute/compute-worker.js'),
    workerData: { backendModule: distUrl('tests/support/wire-backend.js').href, backendData: { setUp } },
  };
  await expect(startTestEndpoint({ openBackend })).rejects.toMatchObject({
    kind: 'unavailable',
    message: 'the backend could not be started: I/O error (layer x of timeline y is damaged)',
  });
});
