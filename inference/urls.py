"""Paths of inference."""

from django.urls import path

from inference.api.chat import ChatCompletions
from inference.api.completions import Completions
from inference.api.embeddings import Embeddings, PlainEmbeddings, Similarity
from inference.api.infer import Infer, InferStream
from inference.api.models import Catalog, ModelInfo, Models, OneModel
from inference.api.requests import OneRequest, RequestCancel, RequestStream

openai = [
    path("chat/completions", ChatCompletions.as_view()),
    path("completions", Completions.as_view()),
    path("embeddings", Embeddings.as_view()),
    path("models", Models.as_view()),
    path("models/<str:name>", OneModel.as_view()),
]
api = [
    path("infer", Infer.as_view()),
    path("infer/stream", InferStream.as_view()),
    path("embeddings", PlainEmbeddings.as_view()),
    path("similarity", Similarity.as_view()),
    path("models", Catalog.as_view()),
    path("model/info", ModelInfo.as_view()),
    path("requests/<uuid:identifier>", OneRequest.as_view()),
    path("requests/<uuid:identifier>/stream", RequestStream.as_view()),
    path("requests/<uuid:identifier>/cancel", RequestCancel.as_view()),
]
